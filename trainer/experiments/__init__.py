"""The paper's experiments: runs of the trainer that are declared, made, compared, and shown on one page."""
