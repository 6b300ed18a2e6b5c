"""Sessions: running, joining, continuing, confirming and comparing studies on this machine, from request to result."""
