"""Run the DAG up to prepare_models: `ray job submit -- python jobs/prepare_models.py --recipe demo`."""

from pipelines.cli.run import main

if __name__ == "__main__":
    main(until=("prepare_models",))
