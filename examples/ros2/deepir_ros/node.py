"""The lifecycle node: rclpy's states and messages, wired to `Logic`."""

from types import SimpleNamespace

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, State, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Float32MultiArray, MultiArrayDimension
from std_srvs.srv import Trigger
from vision_msgs.msg import Classification, ObjectHypothesis, VisionInfo

from deepir_ros.logic import Logic


def ros_parts() -> SimpleNamespace:
    """The kinds of messages and the qualities of service that `Logic` works with."""
    newest = {"history": HistoryPolicy.KEEP_LAST, "depth": 1}
    return SimpleNamespace(
        Classification=Classification,
        CompressedImage=CompressedImage,
        DiagnosticArray=DiagnosticArray,
        DiagnosticStatus=DiagnosticStatus,
        Float32MultiArray=Float32MultiArray,
        Image=Image,
        KeyValue=KeyValue,
        MultiArrayDimension=MultiArrayDimension,
        ObjectHypothesis=ObjectHypothesis,
        Parameter=Parameter,
        Trigger=Trigger,
        VisionInfo=VisionInfo,
        # those of rclpy's sensor data, but only the newest
        sensor_data_qos=QoSProfile(reliability=ReliabilityPolicy.BEST_EFFORT, **newest),
        reliable_qos=QoSProfile(reliability=ReliabilityPolicy.RELIABLE, **newest),
        latched_qos=QoSProfile(
            reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL, **newest
        ),
    )


class DeepirNode(LifecycleNode):
    """Names what a camera sees."""

    def __init__(self) -> None:
        super().__init__("deepir")
        self.logic = Logic(self, ros_parts())

    def on_configure(self, _state: State) -> TransitionCallbackReturn:
        return _outcome(self.logic.configure())

    def on_activate(self, _state: State) -> TransitionCallbackReturn:
        return _outcome(self.logic.activate())

    def on_deactivate(self, _state: State) -> TransitionCallbackReturn:
        return _outcome(self.logic.deactivate())

    def on_cleanup(self, _state: State) -> TransitionCallbackReturn:
        return _outcome(self.logic.cleanup())

    def on_shutdown(self, _state: State) -> TransitionCallbackReturn:
        return _outcome(self.logic.cleanup())


def _outcome(well: bool) -> TransitionCallbackReturn:
    return TransitionCallbackReturn.SUCCESS if well else TransitionCallbackReturn.FAILURE


def main() -> None:
    """Run the node until it is told to stop."""
    rclpy.init()
    node = DeepirNode()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.logic.cleanup()
        node.destroy_node()
        rclpy.try_shutdown()
