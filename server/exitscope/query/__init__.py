"""Questions to a recording: which faults, and what they come down to."""
