"""Entry points for `ray job submit`: each runs the DAG up to the step it is named for."""
