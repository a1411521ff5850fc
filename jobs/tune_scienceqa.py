"""Run the DAG up to tune_scienceqa: `ray job submit -- python jobs/tune_scienceqa.py --recipe demo`."""

from pipelines.cli.run import main

if __name__ == "__main__":
    main(until=("tune_scienceqa",))
