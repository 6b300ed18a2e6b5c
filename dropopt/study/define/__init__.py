"""What a study is: its definition, the scripts that hold one, and the search spaces."""
