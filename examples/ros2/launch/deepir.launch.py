"""Starts the node, configures it, and activates it when it is configured.

ros2 launch deepir_ros deepir.launch.py index:=shop.usearch image:=/camera/image_raw
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, RegisterEventHandler
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.substitutions import FindPackageShare
from lifecycle_msgs.msg import Transition


def generate_launch_description() -> LaunchDescription:
    settings = PathJoinSubstitution([FindPackageShare("deepir_ros"), "config", "deepir.yaml"])
    node = LifecycleNode(
        package="deepir_ros",
        executable="deepir_node",
        name="deepir",
        namespace="",
        parameters=[LaunchConfiguration("config"), {"index": LaunchConfiguration("index")}],
        remappings=[
            ("image", LaunchConfiguration("image")),
            ("image/compressed", [LaunchConfiguration("image"), "/compressed"]),
        ],
    )

    def change(transition: int) -> EmitEvent:
        return EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition))

    when_configured = OnStateTransition(
        target_lifecycle_node=node,
        start_state="configuring",
        goal_state="inactive",
        entities=[change(Transition.TRANSITION_ACTIVATE)],
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument("index", description="The index, written by deepir-index"),
            DeclareLaunchArgument("image", default_value="image", description="The camera's topic"),
            DeclareLaunchArgument("config", default_value=settings, description="A file of parameters"),
            RegisterEventHandler(when_configured),
            node,
            change(Transition.TRANSITION_CONFIGURE),
        ]
    )
