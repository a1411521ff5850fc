"""The science of the assistant: captions, instructions, model, training, benchmarks. Knows no cluster."""
