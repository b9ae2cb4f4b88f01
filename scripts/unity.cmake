# Included by project(): compiles the generated type support of a package's messages in a few large files, not in one of
# each message and kind. Their headers are nearly all of their cost. The kinds left out do not compile together.
function(compile_together)
  foreach(kind c cpp fastrtps_c fastrtps_cpp)
    if(TARGET ${PROJECT_NAME}__rosidl_typesupport_${kind})
      set_target_properties(${PROJECT_NAME}__rosidl_typesupport_${kind} PROPERTIES UNITY_BUILD ON)
    endif()
  endforeach()
endfunction()
cmake_language(DEFER CALL compile_together)
