"""The Job controller of local mode: what ``kube-controller-manager`` does to ``batch/v1`` Jobs."""
