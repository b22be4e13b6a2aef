"""What a run saves, when, and how it goes on from there."""
