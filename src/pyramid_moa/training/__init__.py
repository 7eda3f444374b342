"""From a run folder to a checkpoint, and from both to an evaluation."""
