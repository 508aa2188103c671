"""Training as a service: tasks of a job queue, each trained in a process of its own.

`payload` checks the arguments of a task, `service` is the Celery application, which starts, watches
and stops training processes, and `training_process` is such a process.
"""
