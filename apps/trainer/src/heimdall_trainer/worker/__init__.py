"""Training as a service: tasks of a job queue, each trained in a process of its own.

`payload` checks the arguments of a task, `job_folder` keeps a task on disk, `training_process` is
the process that trains, `reports` talks to the result backend, and `service` is the Celery
application, which starts, watches and stops training processes.
"""
