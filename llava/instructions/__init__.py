"""Instruction data from symbolic context: a teacher reads captions and boxes and writes what a picture would show."""
