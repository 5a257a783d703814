"""One short function per command: the only place where parts are put together and a configuration is taken apart."""
