"""INT8: calibration pictures, ranges, Q/DQ nodes and the accuracy gate."""
