"""A replica: answers Open Inference Protocol requests with the newest good version of its models.

It meets the trainer only at the model store. `replica.Replica` puts the parts together; every part
decides one thing and its module's first lines say which.
"""
