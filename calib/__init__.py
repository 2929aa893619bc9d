"""INT8: calibration pictures, ranges and Q/DQ nodes, judged by the gate."""
