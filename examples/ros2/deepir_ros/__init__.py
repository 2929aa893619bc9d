"""A ROS 2 node that names what a camera sees; the work is in `logic`, the wiring in `node`."""
