"""Run the DAG up to tune_chat: `ray job submit -- python jobs/tune_chat.py --recipe demo`."""

from pipelines.cli.run import main

if __name__ == "__main__":
    main(until=("tune_chat",))
