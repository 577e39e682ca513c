"""A Kubernetes on one machine, our images, and the chart installed with values/demo.yaml.

`python3 -m local up` is the way in. Only Python's standard library is used here, because this
code runs before anything has been installed.
"""
