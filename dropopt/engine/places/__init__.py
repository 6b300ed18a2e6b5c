"""Where dropout can go: the modules of a network whose output features can be dropped."""
