"""Training as a service: tasks of a job queue, each trained in a process of its own.

`payload` checks the arguments of a task, `service` is the Celery application, which starts, watches
and stops training processes, `training_process` is such a process, and `devices` names and locks
the devices that it trains on.
"""
