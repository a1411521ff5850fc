"""Run the whole DAG: `ray job submit -- python jobs/full_pipeline.py --recipe demo`.

A disposable driver: all its state is in the store, so it may be killed and started again at any time.
"""

from pipelines.cli.run import main

if __name__ == "__main__":
    main()
