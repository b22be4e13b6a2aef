"""Tests of deploy/ and scripts/cluster."""
