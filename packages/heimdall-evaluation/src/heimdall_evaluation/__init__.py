"""heimdall_evaluation."""
