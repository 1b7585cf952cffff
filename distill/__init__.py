"""From pictures to a student: data sets, teachers, distillation. What stands in a room imports only rooms below it."""
