"""One bucket of any S3: settings, requests, faults and retries."""
