"""One module a command of `heimdall`: reads flags, calls the library, prints what came of it."""
