include(CMakeFindDependencyMacro)
find_dependency(nlohmann_json 3.8 CONFIG)
include("${CMAKE_CURRENT_LIST_DIR}/bn-bundle-targets.cmake")
