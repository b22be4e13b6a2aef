"""What a person looks at while a run goes on: a page of this machine, drawn anew as the run's folder grows."""
