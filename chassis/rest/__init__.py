"""OIP v2 over HTTP and JSON: a translation into the messages that the gRPC servicers answer.

Nothing is decided here. A request becomes the OIP message it stands for, the servicer's method of
that name answers it, and the answer becomes JSON, raw tensors behind JSON, or server-sent events.
"""
