"""stub"""
from pathlib import Path
def fetch_assistant(served):
    return Path(served.store_uri.removeprefix("file://")) / "assistant"
