"""What examples/phantom.py paints: shapes, a patient, and the anatomy in layers."""
