"""One file a stage. A stage knows its config, its inputs and its work; it never knows the engine that runs it."""
