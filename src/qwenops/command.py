"""The only place where another program is started."""
