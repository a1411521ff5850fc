"""Run the DAG up to select_captions: `ray job submit -- python jobs/select_captions.py --recipe demo`."""

from pipelines.cli.run import main

if __name__ == "__main__":
    main(until=("select_captions",))
