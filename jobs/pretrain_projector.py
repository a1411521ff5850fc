"""Run the DAG up to pretrain_projector: `ray job submit -- python jobs/pretrain_projector.py --recipe demo`."""

from pipelines.cli.run import main

if __name__ == "__main__":
    main(until=("pretrain_projector",))
