"""The journey from a folder of images to a trained, evaluated segmentor, on Ray."""
