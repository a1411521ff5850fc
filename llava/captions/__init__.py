"""From a caption corpus to a concept-balanced set of captions and their pictures (CC3M to 595K)."""
