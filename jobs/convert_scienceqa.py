"""Run the DAG up to convert_scienceqa: `ray job submit -- python jobs/convert_scienceqa.py --recipe demo`."""

from pipelines.cli.run import main

if __name__ == "__main__":
    main(until=("convert_scienceqa",))
