"""Training of engines: manifests of labelled cases, the cache of their lesions, trainees and the trainer.

Nothing here is imported by ``import segmentation``; modules that need torch are imported by name.
"""
