/* Everything a program that uses libmoeplan needs; docs/API.md, docs/examples/plan.c. Not in it, to be included where
 * wanted: report.h and json.h (which need <jansson.h>), yaml.h, npy.h, embedded.h. */
#ifndef MOEPLAN_MOEPLAN_H
#define MOEPLAN_MOEPLAN_H

#include <moeplan/base.h>
#include <moeplan/coloc.h>
#include <moeplan/condense.h>
#include <moeplan/cost.h>
#include <moeplan/export.h>
#include <moeplan/flow.h>
#include <moeplan/homes.h>
#include <moeplan/io.h>
#include <moeplan/limits.h>
#include <moeplan/matrix.h>
#include <moeplan/migrate.h>
#include <moeplan/model.h>
#include <moeplan/plan.h>
#include <moeplan/policy.h>
#include <moeplan/predict.h>
#include <moeplan/progress.h>
#include <moeplan/rehome.h>
#include <moeplan/robust.h>
#include <moeplan/schedule.h>
#include <moeplan/sim.h>
#include <moeplan/stack.h>
#include <moeplan/status.h>
#include <moeplan/strategy.h>
#include <moeplan/synth.h>
#include <moeplan/topology.h>
#include <moeplan/trace.h>
#include <moeplan/train.h>
#include <moeplan/variants.h>
#include <moeplan/verify.h>
#include <moeplan/workload.h>

#endif
