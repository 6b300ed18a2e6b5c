"""Where dropout sites go: the modules of a network that can have one."""
