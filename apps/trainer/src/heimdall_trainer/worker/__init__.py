"""Training as a service: tasks of a job queue, each trained in a process of its own.

`payload` is what a task may ask for, `job_folder` what is kept of it on disk, `training_process`
the process that trains, `attendant` the worker's side of that process, and `service` the Celery
application around them. Only `lease`, `pool` and `service` know Celery.
"""
