"""Run the DAG up to evaluate: `ray job submit -- python jobs/evaluate.py --recipe demo`."""

from pipelines.cli.run import main

if __name__ == "__main__":
    main(until=("evaluate",))
