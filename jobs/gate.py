"""Run the DAG up to gate: `ray job submit -- python jobs/gate.py --recipe demo`."""

from pipelines.cli.run import main

if __name__ == "__main__":
    main(until=("gate",))
