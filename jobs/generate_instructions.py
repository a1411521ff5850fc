"""Run the DAG up to generate_instructions: `ray job submit -- python jobs/generate_instructions.py --recipe demo`."""

from pipelines.cli.run import main

if __name__ == "__main__":
    main(until=("generate_instructions",))
