"""Names in our ONNX graphs by which other rooms than the exporter find their way."""

MAP_NAME = "map"
"""The trunk's last map; middle maps are called map_0, map_1, ..."""

PREPARED_NAME = "prepared"
"""The tensor (N, 3, H, W) that is what `deepir.image.prepare` gives, where the graph takes uint8 pixels."""

POOL_OPERATOR = "RoIMaxPool"
"""RoIMaxPool(x[N,C,H,W], rois int32[R,4] = y0,x0,y1,x1 in cells, ends exclusive) -> [N,R,C]; no attributes."""
