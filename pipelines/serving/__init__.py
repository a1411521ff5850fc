"""The assistant behind HTTP: OpenAI's chat-completions API on Ray Serve, its chat page, and its rollout.

The parts that know the API know no Ray (``errors``, ``pictures``, ``parsing``, ``replies``); the parts that know Ray
know no API (``replica``); ``application`` joins them, and ``rollout`` makes what runs what the registry says.
"""
