"""What a person looks at: the report, its charts and its pictures."""
