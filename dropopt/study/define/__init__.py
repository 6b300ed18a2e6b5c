"""What a study is: its definition, the shipped scripts and the search spaces."""
