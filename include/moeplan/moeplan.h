/* Everything a program that uses libmoeplan needs. */
#ifndef MOEPLAN_MOEPLAN_H
#define MOEPLAN_MOEPLAN_H

#include <moeplan/base.h>
#include <moeplan/condense.h>
#include <moeplan/cost.h>
#include <moeplan/export.h>
#include <moeplan/flow.h>
#include <moeplan/matrix.h>
#include <moeplan/migrate.h>
#include <moeplan/model.h>
#include <moeplan/plan.h>
#include <moeplan/rehome.h>
#include <moeplan/sim.h>
#include <moeplan/stack.h>
#include <moeplan/strategy.h>
#include <moeplan/synth.h>
#include <moeplan/topology.h>
#include <moeplan/trace.h>
#include <moeplan/verify.h>
#include <moeplan/workload.h>

#endif
